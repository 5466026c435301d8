"""From units to a smaller network: groups, gradients, attribution, criteria, plan, surgery, recovery."""
