"""Who may use which single tools: the decision, the policies, and why."""
