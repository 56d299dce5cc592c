"""The commands. The only place that knows argparse."""
