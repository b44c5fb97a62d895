"""Models that travel: exports for other programs, and runs as one file to send; see docs/exports.md."""
