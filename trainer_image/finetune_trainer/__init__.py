"""The trainer image: one command line, one subcommand per stage of a FineTuneJob (docs/architecture.md)."""
