"""Pure functions from one wire type to another: no I/O, no clock, no globals; chance only in the names of replies."""
