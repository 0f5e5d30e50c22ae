"""TransferService: signed addresses for bytes, and what a server can do. On every server."""
