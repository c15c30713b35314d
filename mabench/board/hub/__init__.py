"""The leaderboard on the Hugging Face Hub."""
