"""The entries of an automaton's table: flags, and above them the place of the next state's row."""

CUTS = 1  # a pre-token ended before this character, which begins the next
MATCHES = 2  # a pre-token may end before this character
STOPS = 4  # nothing goes on from here
SHIFT = 3
