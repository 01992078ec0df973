"""What is declared: workflows, stages, activities, people, time, the map. Pure; knows no store."""
