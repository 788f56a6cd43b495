"""gRPC as all services speak it: server, client, errors, paging, watch. Importing this package imports no gRPC."""
