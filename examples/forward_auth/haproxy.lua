-- The action of haproxy.cfg that calls the authorizer. Its URL is the first argument.
local url = ...

core.register_action("authorize", { "http-req" }, function(txn)
    -- Only what the decision needs: no cookies, and no headers of other gateways.
    local headers = {
        ["x-original-method"] = { txn.sf:method() },
        ["x-original-uri"] = { txn.sf:pathq() },
    }
    local of_client = txn.http:req_get_headers()
    for _, name in ipairs({ "authorization", "content-type" }) do
        for _, value in pairs(of_client[name] or {}) do
            headers[name] = headers[name] or {}
            table.insert(headers[name], value)
        end
    end
    -- A token with a new key waits for that key for at most 1 second.
    local answer = core.httpclient():get({ url = url, headers = headers, timeout = 2000 })
    if answer.status == 204 then
        for _, name in ipairs({ "x-auth-subject", "x-auth-client-id", "x-auth-scope" }) do
            txn.http:req_set_header(name, answer.headers[name][0])
        end
        txn:set_var("txn.authorized", true)
    elseif answer.status == 401 or answer.status == 403 or answer.headers["retry-after"] then
        local reply = txn:reply({ status = answer.status, body = answer.body })
        for _, name in ipairs({ "www-authenticate", "cache-control", "content-type", "retry-after" }) do
            for _, value in pairs(answer.headers[name] or {}) do
                reply:add_header(name, value)
            end
        end
        txn:done(reply)
    end
    -- Otherwise, `txn.authorized` is not set, and haproxy.cfg rejects the request.
end)
