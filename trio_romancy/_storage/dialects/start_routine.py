"""The SQL of ``romancy_start``, which stores a new instance as :func:`..sql.starts.start_for_any_worker` does.

It writes the columns of a new row that have no default. A test compares such a row with one that an app has stored.
"""

from __future__ import annotations

AT_ONCE = 1 << 62
"""What :func:`trio_romancy.clock.at_once` subtracts from the time."""

# Stored JSON is ASCII, so that a length in characters is one in bytes.

POSTGRESQL = """
CREATE OR REPLACE FUNCTION romancy_start(workflow text, input json, id text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $body$
#variable_conflict use_column
DECLARE
    moment bigint := floor(extract(epoch FROM clock_timestamp()) * 1000000);
    random_id uuid := encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) placing
        substring(int8send(moment / 1000) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid;
    new_id text := coalesce(romancy_start.id, random_id::text);
    new_input text := romancy_start.input::text;
    held record;
BEGIN
    IF coalesce(length(romancy_start.workflow), 0) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'romancy_start: the name of a workflow has 1 to 255 characters'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF length(new_id) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'romancy_start: an id has 1 to 255 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF json_typeof(romancy_start.input) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'romancy_start: the input is a JSON object with the arguments by name'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(new_input) <> length(new_input) THEN
        SELECT string_agg(CASE
            WHEN ascii(c) < 128 THEN c
            WHEN ascii(c) < 65536 THEN chr(92) || 'u' || lpad(to_hex(ascii(c)), 4, '0')
            ELSE chr(92) || 'u' || to_hex(55296 + ((ascii(c) - 65536) >> 10))
                || chr(92) || 'u' || to_hex(56320 + ((ascii(c) - 65536) & 1023))
            END, '' ORDER BY n)
        INTO new_input FROM regexp_split_to_table(new_input, '') WITH ORDINALITY AS each_one(c, n);
    END IF;
    INSERT INTO romancy_instances
        (instance_id, workflow, status, input, wake_at, recoveries, started_after, created_at, updated_at)
    VALUES (new_id, romancy_start.workflow, 'pending', new_input, moment - {at_once}, 0,
        coalesce((SELECT last FROM romancy_channels WHERE channel = ''), 0), moment, moment)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM pg_notify({channel}, '');
        RETURN new_id;
    END IF;
    SELECT i.workflow, i.input INTO held FROM romancy_instances i WHERE i.instance_id = new_id;
    IF held.workflow IS DISTINCT FROM romancy_start.workflow
            OR (held.input <> new_input AND held.input::jsonb <> new_input::jsonb) THEN
        RAISE EXCEPTION 'romancy_start: instance % exists with another workflow or input', quote_literal(new_id)
            USING ERRCODE = 'unique_violation';
    END IF;
    RETURN new_id;
END
$body$
"""

MYSQL = """
CREATE PROCEDURE romancy_start(
    IN new_workflow {name}, IN given_input LONGTEXT CHARACTER SET utf8mb4, IN given_id {name})
MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE moment BIGINT DEFAULT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED);
    DECLARE digits CHAR(32) DEFAULT MD5(CONCAT(UUID(), RAND()));
    DECLARE stamp CHAR(12) DEFAULT LPAD(LOWER(HEX(moment DIV 1000)), 12, '0');
    DECLARE new_id {name} DEFAULT COALESCE(given_id, CONCAT(LEFT(stamp, 8), '-', RIGHT(stamp, 4), '-7', LEFT(digits, 3),
        '-8', SUBSTRING(digits, 4, 3), '-', RIGHT(digits, 12)));
    DECLARE new_input LONGTEXT CHARACTER SET utf8mb4 DEFAULT given_input;
    DECLARE place, code INT;
    DECLARE c CHAR(1) CHARACTER SET utf8mb4;
    DECLARE held INT;
    IF COALESCE(CHAR_LENGTH(new_workflow), 0) = 0 THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'romancy_start: the name of a workflow has 1 to 255 characters';
    END IF;
    IF CHAR_LENGTH(new_id) = 0 THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'romancy_start: an id has 1 to 255 characters';
    END IF;
    IF given_input IS NULL OR NOT JSON_VALID(given_input) OR JSON_TYPE(given_input) <> 'OBJECT' THEN
        SIGNAL SQLSTATE '45000'
            SET MESSAGE_TEXT = 'romancy_start: the input is a JSON object with the arguments by name';
    END IF;
    IF LENGTH(given_input) <> CHAR_LENGTH(given_input) THEN
        SET new_input = '', place = 1;
        WHILE place <= CHAR_LENGTH(given_input) DO
            SET c = SUBSTRING(given_input, place, 1), place = place + 1;
            IF LENGTH(c) < 2 THEN
                SET new_input = CONCAT(new_input, IF(c = '', ' ', c));
            ELSE
                SET code = CONV(HEX(CONVERT(c USING utf32)), 16, 10);
                IF code < 65536 THEN
                    SET new_input = CONCAT(new_input, CHAR(92), 'u', LPAD(LOWER(HEX(code)), 4, '0'));
                ELSE
                    SET new_input = CONCAT(new_input, CHAR(92), 'u', LOWER(HEX(55296 + ((code - 65536) >> 10))),
                        CHAR(92), 'u', LOWER(HEX(56320 + ((code - 65536) & 1023))));
                END IF;
            END IF;
        END WHILE;
    END IF;
    INSERT INTO romancy_instances
        (instance_id, workflow, status, input, wake_at, recoveries, started_after, created_at, updated_at)
    VALUES (new_id, new_workflow, 'pending', new_input, moment - {at_once}, 0,
        COALESCE((SELECT last FROM romancy_channels WHERE channel = ''), 0), moment, moment)
    ON DUPLICATE KEY UPDATE instance_id = romancy_instances.instance_id;
    SELECT COUNT(*) INTO held FROM romancy_instances WHERE instance_id = new_id AND workflow = new_workflow
        AND BINARY input = BINARY new_input FOR UPDATE;
    IF held = 0 THEN
        SIGNAL SQLSTATE '23000' SET MESSAGE_TEXT = 'romancy_start: the instance exists with another workflow or input';
    END IF;
    SELECT new_id AS instance_id;
END
"""
