"""The only place where protobuf messages meet the domain."""
