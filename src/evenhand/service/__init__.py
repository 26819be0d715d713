"""Watching production: events from the bot, statistics that may be looked at any time, and the page. Starts without torch."""
