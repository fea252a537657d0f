# graced(8): completion for bash. Made by packaging/made.py; do not edit.
# shellcheck shell=bash

# What a command takes: options, those with a value followed by its kind, then operands.
_graced_table() { # COMMAND
    case $1 in
@table@
    esac
}

# The words of the line as the shell will see them: bash breaks them at = : @ as well.
_graced_split() {
    local rest=$COMP_LINE word at
    words=() cword=0
    for ((at = 0; at <= COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if [[ $at -gt 0 && $rest != [[:blank:]]* ]]; then
            words[cword]+=$word
        else
            rest=${rest#"${rest%%[![:blank:]]*}"}
            cword=${#words[@]}
            words+=("$word")
        fi
        rest=${rest#"$word"}
    done
}

# Asks the daemon that the line is about; one that does not answer at once has no pools.
_graced_ask() { # COMMAND [ARGUMENT…]
    local program=${words[0]/#\~\//"$HOME/"}
    timeout 2 "$program" "$@" "${about[@]}" 2>/dev/null </dev/null
}

_graced_pools() {
    _graced_ask status --json | grep -oE '"[A-Za-z][A-Za-z0-9_-]*": \{"target"' | cut -d '"' -f 2
}

_graced_jobs() {
    local states='dead|waiting|done'
    [[ ${operands[0]-} != retry ]] || states='dead|waiting'
    _graced_ask jobs ${pool:+--pool "$pool"} | awk -v states="^($states)\$" '$2 ~ states { print $1 }' |
        head -n 100
}

_graced_units() {
    systemctl list-unit-files --plain --no-legend --no-pager 'graced*.service' 2>/dev/null
    systemctl list-units --all --plain --no-legend --no-pager 'graced@*.service' 2>/dev/null
}

_graced_keys() {
    local key pool
    for key in @daemon@; do
        echo "$key="
    done
    for pool in $(_graced_pools); do
        for key in @pool@; do
            echo "pools.$pool.$key="
        done
    done
}

_graced_offer() { # KIND [PREFIX]: what a value of this kind can be
    local found=() each
    case $1 in
        *'|'*) IFS='|' read -ra found <<<"$1" ;;
        file) compopt -o default 2>/dev/null ;; # readline knows best how to quote names
        pool) mapfile -t found < <(_graced_pools) ;;
        job) mapfile -t found < <(_graced_jobs) ;;
        unit) mapfile -t found < <(_graced_units | awk '{ print $1 }' | sort -u) ;;
        key)
            compopt -o nospace 2>/dev/null
            mapfile -t found < <(_graced_keys)
            ;;
    esac
    for each in "${found[@]}"; do
        _graced_reply "${2-}$each"
    done
}

_graced_reply() { # WORD: an answer if it begins like the word at the cursor
    local breaks=${COMP_WORDBREAKS//[^=:@]/} before=
    [[ $1 == "$current"* ]] || return 0
    if [[ $breaks && $current == *["$breaks"]* ]]; then # bash replaces what is behind a break,
        before=${current%"${current##*["$breaks"]}"}
        before=${before%@} # and this one itself
    fi
    COMPREPLY+=("${1#"$before"}")
}

# Completes the command line behind --, as if it stood alone.
_graced_other() {
    local at=0
    while [[ ${COMP_WORDS[at]} != -- ]]; do
        at=$((at + 1))
    done
    if declare -F _comp_command_offset >/dev/null; then # of bash-completion 2.12
        _comp_command_offset $((at + 1))
    elif declare -F _command_offset >/dev/null; then
        _command_offset $((at + 1))
    elif ((COMP_CWORD == at + 1)); then
        mapfile -t COMPREPLY < <(compgen -c -- "$current")
    else
        compopt -o default 2>/dev/null
    fi
}

_graced_kind() { # OPTION: the kind of its value; fails if it has none
    local each
    for each in "${table[@]}"; do
        if [[ $each == "$1="* ]]; then
            echo "${each#*=}"
            return
        fi
    done
    return 1
}

# Reads the words before the cursor: operands, what the daemon is to be asked about, and
# the option that the cursor's word is the value of.
_graced_read() {
    local at word
    for ((at = 2; at < cword; at++)); do
        word=${words[at]}
        case $word in
            --)
                other=1
                return
                ;;
            -c | --config | --set | --socket) [[ $((at + 1)) -ge cword ]] || about+=("$word" "${words[at + 1]}") ;;
            --config=* | --set=* | --socket=*) about+=("$word") ;;
            --pool=*) pool=${word#*=} ;;
            --pool) pool=${words[at + 1]} ;;
        esac
        if [[ $word != -* ]]; then
            operands+=("$word")
        elif _graced_kind "$word" >/dev/null; then
            at=$((at + 1))
            [[ $at -lt cword ]] || option=$word
        fi
    done
}

_graced_operand() { # the kind of the operand at the cursor
    local each count=0
    for each in "${table[@]}"; do
        [[ $each != -* ]] || continue
        if [[ $count -eq ${#operands[@]} || $each == *'*' ]]; then
            echo "${each%'*'}"
            return
        fi
        count=$((count + 1))
    done
}

_graced() {
    local words cword current option='' pool='' other='' each
    local -a operands=() about=() table=()
    COMPREPLY=()
    _graced_split
    current=${words[cword]}
    if [[ $cword -eq 1 ]]; then
        for each in $(_graced_table commands) --help --version; do
            [[ $current == -* || $each != -* ]] && _graced_reply "$each"
        done
        return 0
    fi
    read -ra table <<<"$(_graced_table "${words[1]}")"
    _graced_read
    if [[ $other ]]; then
        _graced_other
    elif [[ $option ]]; then
        _graced_offer "$(_graced_kind "$option")"
    elif [[ $current == --*=* ]]; then
        _graced_offer "$(_graced_kind "${current%%=*}")" "${current%%=*}="
    elif [[ $current == -* ]]; then
        for each in "${table[@]}"; do
            [[ $each == --* ]] && _graced_reply "${each%%=*}"
        done
    elif [[ $(_graced_operand) == command ]]; then
        _graced_reply --
    else
        _graced_offer "$(_graced_operand)"
    fi
    return 0
}

complete -F _graced graced
