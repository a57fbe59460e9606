"""What no framework ships: bodies with deadlines, digests, ranges, pages, strict headers."""
