"""Writes data sets: episodes as LeRobot v3.0, converted from any format that can be read."""
