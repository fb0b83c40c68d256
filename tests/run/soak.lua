-- Script for wrk, which tests/run/soak.py starts: sends the requests of the plan and checks each answer.
-- A thread has one connection, so each answer belongs to its last request.

local ffi = require("ffi")
ffi.cdef [[
    struct soak_time { long seconds; long nanoseconds; };
    int clock_gettime(int clock, struct soak_time *time);
]]
local MONOTONIC = 1
local time = ffi.new("struct soak_time")

local folder = os.getenv("SOAK_FOLDER")
local threads = 0
local plan, current, began
local last_reading = 0

local function microseconds()
    ffi.C.clock_gettime(MONOTONIC, time)
    return tonumber(time.seconds) * 1e6 + tonumber(time.nanoseconds) / 1e3
end

local function count(counts, key)
    counts[key] = (counts[key] or 0) + 1
end

-- Writes the counts of this phase for soak.py. The file is renamed when it is complete.
local function write_results()
    local path = string.format("%s/%s.%d", folder, plan.name, id)
    local file = assert(io.open(path .. ".part", "wb"))
    for _, what in ipairs({ "kind", "time", "wrong" }) do
        for key, number in pairs(plan[what]) do
            file:write(what, " ", number, " ", key, "\n")
        end
    end
    file:close()
    assert(os.rename(path .. ".part", path .. ".results"))
end

-- The line is followed by the request and the expected body.
local function read_request(file, line)
    local kind, status, request, body, challenge = line:match("^(%S+) (%d+) (%d+) (%d+) (.*)$")
    return {
        kind = kind,
        status = tonumber(status),
        request = file:read(tonumber(request)),
        body = file:read(tonumber(body)) or "",
        challenge = challenge ~= "" and challenge or nil,
    }
end

local function read_plan()
    local file = assert(io.open(folder .. "/plan", "rb"))
    local name = file:read("*l")
    if not plan or name ~= plan.name then
        if plan then
            write_results()
        end
        plan = { name = name, good = {}, hostile = {}, kind = {}, time = {}, wrong = {} }
        for line in file:lines() do
            local one = read_request(file, line)
            table.insert(one.kind == "good" and plan.good or plan.hostile, one)
        end
    end
    file:close()
end

-- Rounds to three digits.
local function rounded(value)
    local step = 10 ^ math.max(0, math.floor(math.log10(math.max(value, 1))) - 2)
    return math.floor(value / step) * step
end

function setup(thread)
    threads = threads + 1
    thread:set("id", threads)
end

function init()
    math.randomseed(id)
    read_plan()
end

function request()
    local list = math.random() < 0.1 and plan.hostile or plan.good
    current = list[math.random(#list)]
    began = microseconds()
    return current.request
end

function response(status, headers, body)
    local now = microseconds()
    local challenge = headers["www-authenticate"]
    count(plan.kind, current.kind)
    count(plan.time, (current.kind == "good" and "good " or "hostile ") .. rounded(now - began))
    if status ~= current.status or body ~= current.body or challenge ~= current.challenge then
        local answer = status .. " " .. tostring(challenge) .. " " .. body:sub(1, 200)
        count(plan.wrong, current.kind .. ": " .. answer:gsub("%s+", " "))
    end
    if now - last_reading > 1e5 then
        last_reading = now
        read_plan()
        if plan.name == "end" then
            wrk.thread:stop()
        end
    end
end
