"""The source of a build: sniffed by content, unpacked under limits, read through one view, named by digests."""
