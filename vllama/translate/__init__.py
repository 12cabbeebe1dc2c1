"""Pure functions from one wire type to another: no I/O, no clock, no globals."""
