"""The ledger: the one state machine of the requests in flight, and the KV memory that they hold."""
