"""The one door: every command and every query of people and programs goes through here."""
