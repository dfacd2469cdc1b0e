"""The request as it arrives: who calls, in which session, how it is recorded and answered."""
