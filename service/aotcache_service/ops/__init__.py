"""What changes both the index and object storage, in an order that survives kill -9."""
