"""What an evaluation leaves behind: traces for programs, the report's part and the model card for people."""
