"""The console: who is held back, by what, until when, of the whole group, whichever gate serves which service."""
