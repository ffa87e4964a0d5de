"""The one way to the service: every HTTP request of the client goes through `net.http`."""
