"""CoOp."""
