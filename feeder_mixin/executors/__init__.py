"""Where tasks run: on processes of this machine, or on a Dask cluster."""
