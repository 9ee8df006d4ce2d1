-- +goose Up
CREATE TABLE party (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL,
    company TEXT NOT NULL DEFAULT '',
    email   TEXT NOT NULL DEFAULT '',
    phone   TEXT NOT NULL DEFAULT '',
    tax_id  TEXT NOT NULL DEFAULT '',
    at      TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1
);

CREATE TABLE address (
    id      TEXT PRIMARY KEY,
    party   TEXT NOT NULL REFERENCES party (id),
    value   TEXT NOT NULL, -- JSON
    at      TEXT NOT NULL
);
CREATE INDEX address_party ON address (party, id);

CREATE TABLE orders (
    id        TEXT PRIMARY KEY,
    number    INTEGER NOT NULL UNIQUE,
    party     TEXT NOT NULL REFERENCES party (id),
    stage     TEXT NOT NULL, -- what was decided: placed, confirmed, cancelled
    state     TEXT NOT NULL, -- stage and lines together; derived, kept for filters
    currency  TEXT NOT NULL,
    quote     TEXT UNIQUE,
    reference TEXT NOT NULL,
    notes     TEXT NOT NULL,
    due       TEXT NOT NULL,
    ship_to   TEXT NOT NULL, -- JSON, as it was when ordered
    bill_to   TEXT NOT NULL,
    actor     TEXT NOT NULL,
    at        TEXT NOT NULL,
    asked     INTEGER NOT NULL DEFAULT 0, -- the customer said the last word
    version   INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX orders_party ON orders (party, id);
CREATE INDEX orders_state ON orders (state, id);
-- The work list: what is neither delivered nor cancelled is little beside what once was.
CREATE INDEX orders_open ON orders (CASE due WHEN '' THEN '9' ELSE due END, id) WHERE state NOT IN ('delivered', 'cancelled');
CREATE INDEX orders_asked ON orders (id) WHERE asked;

CREATE TABLE line (
    id             TEXT PRIMARY KEY,
    order_id       TEXT NOT NULL REFERENCES orders (id),
    model          TEXT NOT NULL,
    revision       INTEGER NOT NULL,
    name           TEXT NOT NULL,
    picture        TEXT NOT NULL,
    material       TEXT NOT NULL,
    material_title TEXT NOT NULL,
    requirements   TEXT NOT NULL, -- JSON
    quantity       INTEGER NOT NULL CHECK (quantity > 0),
    unit_price     TEXT NOT NULL,
    total          TEXT NOT NULL,
    verdict        TEXT NOT NULL DEFAULT '', -- JSON; who accepted that it can be made
    reprint_of     TEXT NOT NULL DEFAULT '',
    started        INTEGER NOT NULL DEFAULT 0,
    made           INTEGER NOT NULL DEFAULT 0,
    scrapped       INTEGER NOT NULL DEFAULT 0,
    shipped        INTEGER NOT NULL DEFAULT 0,
    delivered      INTEGER NOT NULL DEFAULT 0,
    cancelled      INTEGER NOT NULL DEFAULT 0,
    CHECK (delivered >= 0 AND delivered <= shipped AND shipped <= made AND made <= quantity)
);
CREATE INDEX line_order ON line (order_id, id);
CREATE INDEX line_material ON line (material, order_id);

-- What happened, to an order or to one of its lines; it only grows.
CREATE TABLE history (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id TEXT NOT NULL REFERENCES orders (id),
    line     TEXT NOT NULL DEFAULT '',
    kind     TEXT NOT NULL,
    quantity INTEGER NOT NULL DEFAULT 0,
    state    TEXT NOT NULL, -- the order's, afterwards
    note     TEXT NOT NULL,
    actor    TEXT NOT NULL,
    name     TEXT NOT NULL,
    at       TEXT NOT NULL
);
CREATE INDEX history_order ON history (order_id, seq);

CREATE TABLE comment (
    id       TEXT PRIMARY KEY,
    order_id TEXT NOT NULL REFERENCES orders (id),
    text     TEXT NOT NULL,
    internal INTEGER NOT NULL,
    actor    TEXT NOT NULL,
    name     TEXT NOT NULL,
    role     TEXT NOT NULL,
    at       TEXT NOT NULL
);
CREATE INDEX comment_order ON comment (order_id, id);

CREATE TABLE attachment (
    id       TEXT PRIMARY KEY,
    order_id TEXT NOT NULL REFERENCES orders (id),
    name     TEXT NOT NULL,
    type     TEXT NOT NULL,
    size     INTEGER NOT NULL,
    sha256   TEXT NOT NULL,
    actor    TEXT NOT NULL,
    by_name  TEXT NOT NULL,
    at       TEXT NOT NULL
);
CREATE INDEX attachment_order ON attachment (order_id, id);

-- The words of an order; rowid is its number.
CREATE VIRTUAL TABLE order_text USING fts5 (text, tokenize = 'unicode61 remove_diacritics 2');
