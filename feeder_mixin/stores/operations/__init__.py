"""What operators do with stored records: roll back, compare, copy, prune."""
