"""Live views and report figures over ``mlmd``: this package looks, the library computes."""
