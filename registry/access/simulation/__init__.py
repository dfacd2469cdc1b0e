"""What a draft of a rule would have changed: policies, limits and toolsets on recorded calls."""
