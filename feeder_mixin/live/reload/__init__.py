"""From SIGUSR1 to new parameters: the signal, the load, the request from outside."""
