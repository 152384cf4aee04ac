"""The names on the wire: topics, headers and stamps, commands of operators, and what workers tell."""
