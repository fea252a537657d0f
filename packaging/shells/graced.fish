# graced(8): completion for fish. Made by packaging/made.py; do not edit.

function __graced_bare --description 'Is there no command yet?'
    test (count (commandline -opc)) -eq 1
end

function __graced_is --description 'Is this the command, and the cursor not behind its --?'
    set -l words (commandline -opc)
    test (count $words) -gt 1; and test "$words[2]" = $argv[1]; and not contains -- -- $words
end

function __graced_valued --description 'Print which options of a command take a value'
    switch $argv[1]
@valued@
    end
end

function __graced_operands --description 'Print the words that are no options and not their values'
    set -l words (commandline -opc)
    set -l valued (__graced_valued $words[2])
    set -l is_value
    for word in $words[3..-1]
        if set -q is_value[1]
            set is_value
        else if contains -- $word $valued
            set is_value yes
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

function __graced_has --description 'Are there so many operands, or more?'
    set -l count (count (__graced_operands))
    test $count -eq $argv[1]; or test (count $argv) -gt 1 -a $count -gt $argv[1]
end

function __graced_ask --description 'Ask the daemon that the line is about, if it answers at once'
    set -l words (commandline -opc)
    set -l about
    for at in (seq 3 (count $words))
        switch $words[$at]
            case '--config=*' '--set=*' '--socket=*'
                set -a about $words[$at]
            case '--pool=*'
                test $argv[1] = jobs; and set -a about $words[$at]
            case -c --config --set --socket --pool
                if test $at -lt (count $words) -a $words[$at]$argv[1] != --poolstatus
                    set -a about $words[$at..(math $at + 1)]
                end
        end
    end
    timeout 2 (string replace -r '^~/' "$HOME/" -- $words[1]) $argv $about 2>/dev/null </dev/null
end

function __graced_pools --description 'Print the names of the pools'
    __graced_ask status --json | string match -ar '"[A-Za-z][A-Za-z0-9_-]*": \{"target"' |
        string replace -r '^"([^"]*)".*' '$1'
end

function __graced_jobs --description 'Print the jobs that can be retried or dropped'
    set -l states 'dead|waiting|done'
    contains -- retry (__graced_operands); and set states 'dead|waiting'
    __graced_ask jobs | head -n 1000 |
        string replace -rf "^ *(\d+) +($states) +\d+ +\S+ +(.*)" '$1\t$2, $3' | head -n 100
end

function __graced_units --description 'Print the units of graced'
    begin
        systemctl list-unit-files --plain --no-legend --no-pager 'graced*.service'
        systemctl list-units --all --plain --no-legend --no-pager 'graced@*.service'
    end 2>/dev/null | string replace -r '\s.*' '' | sort -u
end

function __graced_keys --description 'Print the keys of the configuration'
    string split ' ' -- '@daemon@' | string replace -r '$' '='
    for pool in (__graced_pools)
        string split ' ' -- '@pool@' | string replace -r '^(.*)$' "pools.$pool.\$1="
    end
end

function __graced_submits --description 'Is the cursor in the command line behind a --?'
    set -l words (commandline -opc)
    test "$words[2]" = submit; and contains -- -- $words
end

function __graced_other --description 'Complete the command line behind the --'
    set -l words (commandline -opc)
    set -l at (contains -i -- -- $words)
    set -l rest
    if test $at -lt (count $words)
        set rest (string escape -- $words[(math $at + 1)..-1])
    end
    complete -C (string join ' ' -- $rest (commandline -ct))
end

complete -c graced -f
complete -c graced -n '__graced_is submit; and __graced_has 0' -x -a '--'
complete -c graced -n __graced_submits -x -a '(__graced_other)'
@table@
