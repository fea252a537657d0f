"""The process that imports a pool's code once and forks its workers, and their orphans."""
