"""Responses of a policy: what is asked for, and the engines that sample."""
