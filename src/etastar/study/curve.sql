-- The tables of success curves, which a store of 0.1.0 lacks.
CREATE TABLE IF NOT EXISTS run (         -- every trial of a curve that has ended
    cell INTEGER NOT NULL REFERENCES specification (key),
    seed INTEGER NOT NULL,
    lr REAL NOT NULL,
    steps INTEGER NOT NULL,              -- length of a partial run, 0 for a whole one
    to_end INTEGER NOT NULL,             -- whether it went on after touching the threshold
    outcome TEXT NOT NULL,               -- JSON
    PRIMARY KEY (cell, seed, lr, steps, to_end)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS curve (       -- what the estimator made of these trials
    cell INTEGER NOT NULL REFERENCES specification (key),
    asked TEXT NOT NULL,                 -- first seed, precision, caps; canonical JSON
    found TEXT NOT NULL,                 -- JSON
    PRIMARY KEY (cell, asked)
) WITHOUT ROWID;
