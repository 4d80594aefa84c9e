"""The search file: its schema, how it is read, overridden and compared."""
