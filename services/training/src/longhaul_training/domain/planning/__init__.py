"""The planner: sizes, costs and questions a training run before anything is started. Pure arithmetic."""
