"""What is searched: item rows in Lance tables, committed exactly once, indexed, published and queried."""
