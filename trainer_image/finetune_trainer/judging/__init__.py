"""Another model as judge of answers: what it is asked, how its replies are read, and what becomes of them."""
