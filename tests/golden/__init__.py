"""State as gates have written it: a file per version, made by the code that wrote that version, never changed."""
