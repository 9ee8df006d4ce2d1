-- +goose Up
CREATE TABLE model (
    id       TEXT PRIMARY KEY,
    party    TEXT NOT NULL,           -- whose it is; empty: the shop's own
    name     TEXT NOT NULL,
    by_id    TEXT NOT NULL,           -- who brought it
    by_name  TEXT NOT NULL,
    at       TEXT NOT NULL,
    version  INTEGER NOT NULL DEFAULT 1,
    current  INTEGER NOT NULL DEFAULT 1,
    deleted  TEXT NOT NULL DEFAULT ''  -- when; its files are gone then
);
CREATE INDEX model_party ON model (party, id);

CREATE TABLE revision (
    model     TEXT NOT NULL REFERENCES model (id),
    n         INTEGER NOT NULL,
    source    INTEGER NOT NULL,        -- the revision that it is made of; 0: a file
    operation TEXT NOT NULL,           -- JSON
    unit      TEXT NOT NULL,           -- as given; empty: the file's own
    bytes     INTEGER NOT NULL,        -- of the file; 0 for one that is made here
    sha256    TEXT NOT NULL,
    by_name   TEXT NOT NULL,
    at        TEXT NOT NULL,
    queued    TEXT NOT NULL,
    ended     TEXT NOT NULL DEFAULT '',
    state     TEXT NOT NULL,           -- waiting, running, asking, done, refused, cancelled, quarantined
    crashes   INTEGER NOT NULL DEFAULT 0,
    stops     INTEGER NOT NULL DEFAULT 0,
    code      TEXT NOT NULL DEFAULT '', -- why it is refused or quarantined
    reason    TEXT NOT NULL DEFAULT '',
    guess     TEXT NOT NULL DEFAULT '', -- of the unit, while asking
    report    TEXT NOT NULL DEFAULT '', -- JSON, when done
    version   INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (model, n)
) WITHOUT ROWID;
CREATE INDEX revision_state ON revision (state, queued);

CREATE TABLE step (
    model  TEXT NOT NULL,
    n      INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    name   TEXT NOT NULL,
    state  TEXT NOT NULL,
    detail TEXT NOT NULL DEFAULT '',
    began  TEXT NOT NULL DEFAULT '',
    ended  TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (model, n, seq),
    FOREIGN KEY (model, n) REFERENCES revision (model, n)
) WITHOUT ROWID;

CREATE TABLE acceptance (
    model    TEXT NOT NULL,
    n        INTEGER NOT NULL,
    material TEXT NOT NULL,
    quote    TEXT NOT NULL DEFAULT '', -- that the customer accepted; empty: staff did so by hand
    by_name  TEXT NOT NULL,
    note     TEXT NOT NULL DEFAULT '',
    at       TEXT NOT NULL,
    PRIMARY KEY (model, n, material),
    FOREIGN KEY (model, n) REFERENCES revision (model, n)
) WITHOUT ROWID;

CREATE TABLE quote (
    id          TEXT PRIMARY KEY,
    party       TEXT NOT NULL,
    by_id       TEXT NOT NULL,
    by_name     TEXT NOT NULL,
    proposal    INTEGER NOT NULL DEFAULT 0, -- the shop made it for the customer
    message     TEXT NOT NULL DEFAULT '',
    state       TEXT NOT NULL,              -- open, accepted, refused; expired is open past valid_until
    currency    TEXT NOT NULL,
    total       TEXT NOT NULL,
    valid_until TEXT NOT NULL,
    at          TEXT NOT NULL,
    answered    TEXT NOT NULL DEFAULT '',
    answered_by TEXT NOT NULL DEFAULT '',
    answer      TEXT NOT NULL DEFAULT '',   -- what the customer says to it
    version     INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX quote_party ON quote (party, id);

CREATE TABLE quote_item (
    quote    TEXT NOT NULL REFERENCES quote (id),
    seq      INTEGER NOT NULL,
    model    TEXT NOT NULL,
    n        INTEGER NOT NULL,
    name     TEXT NOT NULL,
    material TEXT NOT NULL,
    verdict  TEXT NOT NULL,
    titles   TEXT NOT NULL,                 -- JSON: of material, finish, colour
    price    TEXT NOT NULL,                 -- JSON: price.Quote
    PRIMARY KEY (quote, seq),
    FOREIGN KEY (model, n) REFERENCES revision (model, n)
) WITHOUT ROWID;
CREATE INDEX quote_item_model ON quote_item (model, n);

CREATE TABLE upload (
    id      TEXT PRIMARY KEY,
    party   TEXT NOT NULL,
    by_id   TEXT NOT NULL,
    name    TEXT NOT NULL,
    unit    TEXT NOT NULL,
    size    INTEGER NOT NULL,
    at      TEXT NOT NULL,
    expires TEXT NOT NULL,
    model   TEXT NOT NULL,                  -- that it becomes
    done    INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE share (
    token   TEXT PRIMARY KEY,               -- SHA-256 of what stands in the link
    model   TEXT NOT NULL,
    n       INTEGER NOT NULL,
    by_name TEXT NOT NULL,
    at      TEXT NOT NULL,
    expires TEXT NOT NULL,
    FOREIGN KEY (model, n) REFERENCES revision (model, n)
);
