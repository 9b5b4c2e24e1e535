-- The tables of a store.
CREATE TABLE specification (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,             -- hash of json
    kind TEXT NOT NULL,                  -- maximal-lr, sharpness or model
    json TEXT NOT NULL,                  -- canonical
    resolved TEXT                        -- what it came to on the data: recipe, provenance; JSON
);
CREATE TABLE seed (
    cell INTEGER NOT NULL REFERENCES specification (key),
    seed INTEGER NOT NULL,
    status TEXT NOT NULL,
    eta_lo REAL,
    eta_hi REAL,
    hi_outcome TEXT,
    re_entries TEXT NOT NULL,            -- JSON list of rates
    trials INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    PRIMARY KEY (cell, seed)
) WITHOUT ROWID;
CREATE TABLE trial (                     -- of finished seeds those that the search used
    cell INTEGER NOT NULL REFERENCES specification (key),  -- and of others all that have ended
    seed INTEGER NOT NULL,
    lr REAL NOT NULL,
    outcome TEXT NOT NULL,
    step INTEGER NOT NULL,
    accuracy REAL,
    slow INTEGER NOT NULL,
    PRIMARY KEY (cell, seed, lr)
) WITHOUT ROWID;
CREATE TABLE sharpness (
    cell INTEGER NOT NULL REFERENCES specification (key),
    seed INTEGER NOT NULL,
    lambda1 REAL,                        -- Hessian, preconditioned by the layers' rates
    lambda1_gauss_newton REAL,           -- Gauss-Newton matrix, preconditioned
    lambda1_plain REAL,                  -- Hessian
    residual REAL,                       -- of lambda1
    converged INTEGER NOT NULL,          -- whether all three did
    PRIMARY KEY (cell, seed)
) WITHOUT ROWID;
CREATE TABLE failure (
    cell INTEGER PRIMARY KEY REFERENCES specification (key),
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    time TEXT NOT NULL
);
CREATE TABLE work (                      -- one row per task that ended
    number INTEGER PRIMARY KEY,
    cell INTEGER NOT NULL REFERENCES specification (key),
    seeds TEXT NOT NULL,                 -- JSON list
    ended TEXT NOT NULL,
    seconds REAL NOT NULL,
    environment TEXT NOT NULL            -- JSON
);
CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT NOT NULL);
