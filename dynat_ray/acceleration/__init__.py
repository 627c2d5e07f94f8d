"""How a network is made fast for attacks, and nothing else: a program without it is only slower."""
