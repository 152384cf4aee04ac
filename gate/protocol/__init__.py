"""Names on the wire: topics, headers and stamps, operators' commands, what workers tell."""
