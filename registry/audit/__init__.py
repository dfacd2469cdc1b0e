"""Audit trail: a record of every change and refusal, sealed into a tamper-evident chain."""
