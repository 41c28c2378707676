"""What the API server has, kept up to date by watches: our objects and their children."""
