-- Removes from a request every header that names the guest to the application (X-Guest-...), and every alias of one:
-- CGI, WSGI, PHP and others read each character of a name that is no letter or digit as the same, so that `X_Guest_Id` and
-- `X.Guest!Id` arrive as `X-Guest-Id`. guest-sessions.conf runs it before anything else. It is Lua since no directive of
-- Apache looks at the name of every header: SetEnvIf takes a pattern of names, but sees the last match alone.

function strip_identity(r)
    for name in pairs(r:headers_in_table()) do
        if name:lower():find("^x[^%w]guest[^%w]") then
            r.headers_in[name] = nil
        end
    end
    return apache2.DECLINED
end
