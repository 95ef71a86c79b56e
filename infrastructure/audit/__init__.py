"""The log, sealed and proven: a Merkle tree over it, signed checkpoints, and their verification."""
