"""Tables on object storage."""
