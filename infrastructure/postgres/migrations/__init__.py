"""Numbered scripts, each applied once; a script that was released is never changed."""
