"""Workers in Ray actors. Only this package imports ray."""
